-- One row per training pair: cosine of its unsafe caption with the given safe caption and with the nearest one.
SELECT t.pair_id, coalesce(p.tightness, 'unknown') AS tightness, b.difficulty, t.cosine_given AS given,
       t.cosine AS nearest, t.cosine - t.cosine_given AS gain, t.target_pair_id = t.pair_id AS own_partner
FROM targets AS t
LEFT JOIN buckets AS b USING (pair_id)
LEFT JOIN pairs AS p ON p.pair_id = t.pair_id AND p.collection = 'world'
WHERE t.rank = 0
ORDER BY t.pair_id
