-- Which defences no other one beats on both safety and utility, per pair of axes; the dominated ones, and by whom, too.
-- One point per defence and training seed; points compete within a seed. `lower` names axes on which less is better. A
-- point is dominated by one that is at least as good on both axes and better on one; intervals play no part in that.
WITH axes AS (
    SELECT * FROM (VALUES
        ('zero-shot against safe item nearest, tuned gallery', 'zero_shot', 1, 'redirect_tuned', 1),
        ('zero-shot against safe item nearest, frozen gallery', 'zero_shot', 1, 'redirect_frozen', 1),
        ('zero-shot against matching scene, tuned gallery', 'zero_shot', 1, 'match_tuned', 1),
        ('zero-shot against matching scene, frozen gallery', 'zero_shot', 1, 'match_frozen', 1),
        ('zero-shot against ASR', 'zero_shot', 1, 'asr', -1),
        ('CLIP score against ASR', 'clip_score', 1, 'asr', -1),
        ('Frechet distance against ASR', 'frechet_distance', -1, 'asr', -1)
    ) AS t(axes, utility_name, utility_sign, safety_name, safety_sign)
), numbers AS MATERIALIZED (
    SELECT * FROM headline
), points AS (
    SELECT a.*, u.defence, u.seed, u.value AS utility, u.ci_low AS utility_ci_low, u.ci_high AS utility_ci_high,
           u.n AS utility_n, s.value AS safety, s.ci_low AS safety_ci_low, s.ci_high AS safety_ci_high, s.n AS safety_n
    FROM axes AS a
    JOIN numbers AS u ON u.name = a.utility_name AND u.value IS NOT NULL
    JOIN numbers AS s ON s.name = a.safety_name AND s.defence = u.defence AND s.seed = u.seed AND s.value IS NOT NULL
), beaten AS (
    SELECT p.axes, p.defence, p.seed, string_agg(o.defence, ', ' ORDER BY o.defence) AS dominated_by
    FROM points AS p
    JOIN points AS o
      ON o.axes = p.axes AND o.seed = p.seed AND o.utility * o.utility_sign >= p.utility * p.utility_sign
     AND o.safety * o.safety_sign >= p.safety * p.safety_sign AND (o.utility <> p.utility OR o.safety <> p.safety)
    GROUP BY ALL
)
SELECT p.axes, p.defence, p.seed, b.dominated_by IS NULL AS on_frontier, p.utility, p.utility_ci_low,
       p.utility_ci_high, p.utility_n, p.safety, p.safety_ci_low, p.safety_ci_high, p.safety_n,
       concat_ws(', ', CASE WHEN p.utility_sign < 0 THEN 'utility' END,
                 CASE WHEN p.safety_sign < 0 THEN 'safety' END) AS lower,
       coalesce(b.dominated_by, '') AS dominated_by, p.utility_name, p.safety_name
FROM points AS p
LEFT JOIN beaten AS b USING (axes, defence, seed)
ORDER BY p.axes, p.seed, on_frontier DESC, p.utility * p.utility_sign DESC, p.defence
