-- Sets of images or replies whose detections do not compare, and why: `score_conflicts` for table `detections`.
WITH examined AS MATERIALIZED (
    SELECT DISTINCT collection, CASE WHEN detector LIKE 'text-%' THEN 'reply' ELSE 'generation' END AS kind, defence,
           seed, prompt_set, detector, detector_hash
    FROM detections
), facts AS (
    SELECT prompt_set, detector, concat(e.defence, ' (seed ', e.seed, ')') AS who,
           unnest([
               {'fact': 'detector hash', 'value': e.detector_hash},
               {'fact': 'fingerprint of what was asked', 'value': c.items},
               {'fact': 'setting', 'value': c.settings}
           ], recursive := true)
    FROM examined AS e
    LEFT JOIN conditions AS c USING (kind, defence, seed, prompt_set)
    UNION ALL BY NAME
    SELECT prompt_set, detector, concat(defence, ' (seed ', seed, ')') AS who, 'output' AS fact, collection AS value
    FROM (SELECT DISTINCT collection, defence, seed, prompt_set, detector FROM examined)
    QUALIFY count(*) OVER (PARTITION BY prompt_set, detector, defence, seed) > 1
)
SELECT prompt_set, detector, fact, arg_min(who, value) AS one, min(value) AS low, arg_max(who, value) AS other,
       max(value) AS high
FROM facts
WHERE value IS NOT NULL
GROUP BY prompt_set, detector, fact
HAVING min(value) <> max(value)
