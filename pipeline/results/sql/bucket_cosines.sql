-- Histogram, in bins of 0.05, of the cosine of unsafe and safe caption in each difficulty bucket: given and nearest.
WITH cosines AS (
    SELECT difficulty, 'given' AS target, given AS cosine FROM alignment WHERE difficulty IS NOT NULL
    UNION ALL
    SELECT difficulty, 'nearest', nearest FROM alignment WHERE difficulty IS NOT NULL
), counted AS (
    SELECT difficulty, target, floor(cosine / 0.05) * 0.05 AS bin, count(*) AS pairs FROM cosines GROUP BY ALL
)
SELECT difficulty, target, bin, pairs, pairs / sum(pairs) OVER (PARTITION BY difficulty, target) AS share
FROM counted
ORDER BY difficulty, target, bin
