-- What was left out on the way: every filter's n before and after, and what could not be made or examined, as errors.
-- Outputs that say the same share a line; `outputs` names them.
WITH filtered AS (
    SELECT stage, set, filter, version, n_before, n_dropped, n_after, collection FROM filters
), failed AS (
    SELECT 'score' AS stage, benchmark AS set, 'errors' AS filter, 'an image or reply without a verdict' AS version,
           sum(n)::BIGINT AS n_before, sum(value)::BIGINT AS n_dropped,
           (sum(n) - sum(value))::BIGINT AS n_after, collection
    FROM scores WHERE metric = 'errors' GROUP BY ALL
), refused AS (
    SELECT 'attack' AS stage, attack AS set, 'refused' AS filter, 'found text that a prompt filter dropped' AS version,
           count(*) AS n_before, count(*) FILTER (status = 'refused') AS n_dropped, n_before - n_dropped AS n_after,
           collection
    FROM attacks GROUP BY ALL
    UNION ALL
    SELECT 'attack', attack, 'errors', 'a search that could not start', count(*) AS searched,
           count(*) FILTER (status = 'error') AS unsearched, searched - unsearched, collection
    FROM attacks GROUP BY ALL
)
SELECT stage, set, filter, version, n_before, n_dropped, n_after,
       string_agg(DISTINCT collection, ', ' ORDER BY collection) AS outputs
FROM (FROM filtered UNION ALL FROM failed UNION ALL FROM refused)
GROUP BY ALL
ORDER BY stage, set, filter, outputs
