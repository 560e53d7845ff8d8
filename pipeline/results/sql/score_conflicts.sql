-- Numbers of `scores` whose rows do not compare, and why: one row per number and fact on which two defences or training
-- seeds differ. Facts: the benchmark's data, the detector's hash, the prompts or images asked, the settings, the world
-- that holds the reference images and the labels, and being scored in two outputs. What no table tells is not compared.
WITH numbers AS MATERIALIZED (
    SELECT *, split_part(benchmark, '/', 1) AS kind, substr(benchmark, strpos(benchmark, '/') + 1) AS prompt_set
    FROM scores
), hashes AS (
    SELECT DISTINCT CASE WHEN detector LIKE 'text-%' THEN 'reply' ELSE 'generation' END AS kind, defence,
           seed, prompt_set, detector, detector_hash
    FROM detections
), facts AS (
    SELECT n.benchmark, n.protocol, n.metric, n.detector, n.rule, concat(n.defence, ' (seed ', n.seed, ')') AS who,
           unnest([
               {'fact': 'hash of the data', 'value':
                CASE WHEN n.kind NOT IN ('generation', 'reply') THEN n.data_hash END},
               {'fact': 'detector hash', 'value': h.detector_hash},
               {'fact': 'fingerprint of what was asked', 'value': c.items},
               {'fact': 'setting', 'value': c.settings},
               {'fact': 'hash of the reference world', 'value':
                CASE WHEN n.metric IN ('frechet_distance', 'attribute_recall') THEN i.world END}
           ], recursive := true)
    FROM numbers AS n
    LEFT JOIN hashes AS h USING (kind, defence, seed, prompt_set, detector)
    LEFT JOIN conditions AS c USING (kind, defence, seed, prompt_set)
    LEFT JOIN inputs AS i ON i.collection = n.collection
    UNION ALL BY NAME
    SELECT benchmark, protocol, metric, detector, rule, concat(defence, ' (seed ', seed, ')') AS who,
           'output' AS fact, collection AS value
    FROM numbers
    QUALIFY count(*) OVER (PARTITION BY benchmark, protocol, metric, detector, rule, defence, seed) > 1
)
SELECT benchmark, protocol, metric, detector, rule, fact, arg_min(who, value) AS one, min(value) AS low,
       arg_max(who, value) AS other, max(value) AS high
FROM facts
WHERE value IS NOT NULL
GROUP BY benchmark, protocol, metric, detector, rule, fact
HAVING min(value) <> max(value)
