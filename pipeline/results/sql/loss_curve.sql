-- Weighted loss terms, and their sum, of every logged step. Terms of weight 0 are logged to be watched: see train_log.
SELECT defence, seed, epoch, step, term, value * weight AS value FROM train_log WHERE term <> 'total' AND weight <> 0
UNION ALL
SELECT defence, seed, epoch, step, 'total', sum(value * weight) FROM train_log WHERE term <> 'total' GROUP BY ALL
ORDER BY defence, seed, step, term
