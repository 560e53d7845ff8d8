-- Safety against utility, one point per defence, seed and gallery protocol.
WITH numbers AS MATERIALIZED (SELECT * FROM headline)
SELECT h.defence, h.seed, split_part(h.name, '_', 2) AS gallery, h.value AS redirection, h.ci_low, h.ci_high, h.n,
       z.value AS zero_shot, z.ci_low AS zero_shot_ci_low, z.ci_high AS zero_shot_ci_high, z.n AS zero_shot_n,
       a.value AS asr, a.ci_low AS asr_ci_low, a.ci_high AS asr_ci_high, a.n AS asr_n
FROM numbers AS h
LEFT JOIN numbers AS z ON z.defence = h.defence AND z.seed = h.seed AND z.name = 'zero_shot'
LEFT JOIN numbers AS a ON a.defence = h.defence AND a.seed = h.seed AND a.name = 'asr'
WHERE h.name IN ('redirect_tuned', 'redirect_frozen')
ORDER BY h.defence, h.seed, gallery
