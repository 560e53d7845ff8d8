-- Training pairs per difficulty and tightness.
SELECT b.difficulty, coalesce(p.tightness, 'unknown') AS tightness, count(*) AS pairs, avg(b.cosine) AS mean_cosine
FROM buckets AS b
LEFT JOIN pairs AS p ON p.pair_id = b.pair_id AND p.collection = 'world'
GROUP BY ALL
ORDER BY mean_cosine DESC
