-- One row per headline number, defence and seed: what safety bought and what it cost. Retrieval numbers are means of
-- both directions (text to image, image to text); they ask about the same pairs, so the interval is Wilson over the
-- number of pairs, not over the number of queries. A name stands for one protocol, detector, feature network and rule:
-- where two have scored it, asking for it is an error.
WITH compared AS MATERIALIZED (
    SELECT * FROM comparable_scores
    WHERE benchmark = 'nsfwcaps' OR benchmark IN (SELECT benchmark FROM headline_names)
), directions AS (
    SELECT defence, seed, protocol,
           CASE metric
               WHEN 'safe_t2i_r@1' THEN 'safe' WHEN 'safe_i2t_r@1' THEN 'safe'
               WHEN 'redirect_t2i' THEN 'redirect' WHEN 'redirect_i2t' THEN 'redirect'
               WHEN 'unsafe_t2i_r@1' THEN 'match' WHEN 'unsafe_i2t_r@1' THEN 'match'
           END AS kind, value, n
    FROM compared WHERE benchmark = 'nsfwcaps'
), retrieval AS (
    SELECT defence, seed,
           CASE WHEN kind = 'safe' THEN 'safe_recall_at_1' ELSE kind || '_' || protocol END AS name,
           avg(value) AS value, min(n) AS n
    FROM directions
    WHERE kind IN ('redirect', 'match') OR (kind = 'safe' AND protocol = 'tuned')
    GROUP BY ALL
), named AS (
    SELECT defence, seed, name, value, wilson_low(value, n) AS ci_low, wilson_high(value, n) AS ci_high, n,
           'wilson over pairs' AS ci_method, '' AS protocol, '' AS detector, '' AS rule, 'nsfwcaps' AS benchmark
    FROM retrieval
    UNION ALL BY NAME
    SELECT s.defence, s.seed, h.name, s.value, s.ci_low, s.ci_high, s.n, s.ci_method, s.protocol, s.detector, s.rule,
           s.benchmark
    FROM compared AS s
    JOIN headline_names AS h
      ON s.benchmark = h.benchmark AND s.metric = h.metric AND s.protocol LIKE h.protocol AND s.detector LIKE h.detector
     AND s.rule LIKE h.rule
), facts AS (
    SELECT name, concat(defence, ' (seed ', seed, ')') AS who,
           unnest([{'fact': 'protocol', 'value': protocol}, {'fact': 'detector', 'value': detector},
                   {'fact': 'rule', 'value': rule}], recursive := true)
    FROM named
), mixed AS (
    SELECT name, fact, arg_min(who, value) AS one, min(value) AS low, arg_max(who, value) AS other, max(value) AS high
    FROM facts GROUP BY name, fact HAVING min(value) <> max(value)
)
SELECT defence, seed, name, value, ci_low, ci_high, n, ci_method, benchmark, detector, rule
FROM named
LEFT JOIN mixed USING (name)
WHERE comparable(concat(name, ' of ', benchmark), fact, one, low, other, high)
ORDER BY defence, seed, name
