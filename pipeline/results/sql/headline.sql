-- One row per headline number, defence and seed: what safety bought and what it cost. Retrieval numbers are means of
-- both directions (text to image, image to text); they ask about the same pairs, so the interval is Wilson over the
-- number of pairs, not over the number of queries.
WITH directions AS (
    SELECT defence, seed, protocol,
           CASE metric
               WHEN 'safe_t2i_r@1' THEN 'safe' WHEN 'safe_i2t_r@1' THEN 'safe'
               WHEN 'redirect_t2i' THEN 'redirect' WHEN 'redirect_i2t' THEN 'redirect'
               WHEN 'unsafe_t2i_r@1' THEN 'match' WHEN 'unsafe_i2t_r@1' THEN 'match'
           END AS kind, value, n
    FROM scores WHERE benchmark = 'nsfwcaps'
), retrieval AS (
    SELECT defence, seed,
           CASE WHEN kind = 'safe' THEN 'safe_recall_at_1' ELSE kind || '_' || protocol END AS name,
           avg(value) AS value, min(n) AS n
    FROM directions
    WHERE kind IN ('redirect', 'match') OR (kind = 'safe' AND protocol = 'tuned')
    GROUP BY ALL
), named AS (
    SELECT defence, seed, name, value, wilson_low(value, n) AS ci_low, wilson_high(value, n) AS ci_high, n,
           'wilson over pairs' AS ci_method, '' AS detector, '' AS rule, 'nsfwcaps' AS benchmark
    FROM retrieval
    UNION ALL BY NAME
    SELECT s.defence, s.seed, h.name, s.value, s.ci_low, s.ci_high, s.n, s.ci_method, s.detector, s.rule, s.benchmark
    FROM scores AS s
    JOIN headline_names AS h
      ON s.benchmark = h.benchmark AND s.metric = h.metric AND s.protocol LIKE h.protocol AND s.detector LIKE h.detector
)
SELECT defence, seed, name, value, ci_low, ci_high, n, ci_method, benchmark, detector, rule
FROM named
ORDER BY defence, seed, name
