-- Zero-shot accuracy per shift and task; task 'mean' is the mean over tasks.
SELECT defence, seed, split_part(benchmark, '/', 2) AS shift,
       CASE WHEN 'mean' IN (protocol, metric) THEN 'mean' ELSE protocol END AS task,
       value AS accuracy, ci_low, ci_high, n
FROM scores
WHERE benchmark LIKE 'zeroshot/%' AND metric IN ('accuracy', 'mean')
ORDER BY shift, task, defence, seed
