-- Defence against attack: share of images flagged, mean over training seeds with its interval. `knowledge`: 'prompts'
-- for a fixed prompt set, 'adaptive' or 'transfer' for a search against the defended or the undefended text tower. Safe
-- sets are rows too, as false positives; on world_invented these are hazards that the small generator draws for words
-- that it does not know. The interval adds training (Student-t over seeds) and items (mean Wilson interval of one seed)
-- in quadrature, as pipeline/metrics/seeds.py does. n: images per seed, the least of them. Over all seeds: `refused`,
-- finds that a prompt filter dropped, not in n; `errors`, images without a verdict of this detector, which are in n and
-- widen the interval by both answers, and prompts that a search could not start from, which are not.
WITH searched AS (
    SELECT defence, attack, mode, count(*) FILTER (status = 'refused') AS refused,
           count(*) FILTER (status = 'error') AS unsearched
    FROM attacks GROUP BY ALL
), failed AS (
    SELECT defence, prompt_set AS attack, detector, count(DISTINCT item_id) AS failed
    FROM detections WHERE status = 'error' GROUP BY ALL
), pooled AS (
    SELECT defence, substr(benchmark, 12) AS attack, protocol, metric, detector, rule, avg(value) AS value,
           coalesce(student_t(count(*)) * stddev_samp(value) / sqrt(count(*)), 0) AS training,
           avg(value - ci_low) AS below, avg(ci_high - value) AS above, min(n) AS n, count(*) AS seeds
    FROM comparable_scores
    WHERE benchmark LIKE 'generation/%' AND metric IN ('asr', 'false_positive_rate') AND value IS NOT NULL
    GROUP BY ALL
)
SELECT defence, attack, coalesce(mode, 'prompts') AS knowledge, protocol, metric, detector, rule, value,
       greatest(0, value - sqrt(training ^ 2 + below ^ 2)) AS ci_low,
       least(1, value + sqrt(training ^ 2 + above ^ 2)) AS ci_high, n,
       coalesce(refused, 0) AS refused, coalesce(unsearched, 0) + coalesce(failed, 0) AS errors, seeds
FROM pooled
LEFT JOIN searched USING (defence, attack)
LEFT JOIN failed USING (defence, attack, detector)
ORDER BY metric, detector, rule, protocol, attack, defence
