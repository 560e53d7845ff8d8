-- How close the mined safe neighbour is, against the given partner, by the tightness of the given pair.
SELECT coalesce(p.tightness, 'unknown') AS tightness, t.rank, count(*) AS pairs,
       median(t.cosine) AS mined_cosine, median(t.cosine_given) AS given_cosine,
       avg((t.target_pair_id = t.pair_id)::INT) AS own_partner
FROM targets AS t
LEFT JOIN pairs AS p ON p.pair_id = t.pair_id AND p.collection = 'world'
GROUP BY ALL
ORDER BY t.rank, tightness
