-- Zero-shot accuracy per shift and task; task 'mean' is the mean over tasks.
SELECT defence, seed, split_part(benchmark, '/', 2) AS shift, protocol AS task, value AS accuracy, ci_low, ci_high, n
FROM comparable_scores
WHERE benchmark LIKE 'zeroshot/%' AND metric = 'accuracy'
ORDER BY shift, task, defence, seed
