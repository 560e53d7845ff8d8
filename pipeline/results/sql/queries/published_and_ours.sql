-- What papers printed (column `printed`) and what the world measured (`measured`), as rows of their own: `source` says
-- whose number it is, `benchmark` on what. Other data, models and units: compare methods within one source alone.
WITH compared AS MATERIALIZED (
    SELECT * FROM comparable_scores WHERE benchmark = 'drift' OR benchmark LIKE 'real_pool_%'
), ours AS (
    SELECT 'ours (embedded world)' AS source, h.defence AS method, k.question, 'world: ' || h.benchmark AS benchmark,
           k.protocol, h.name AS metric, h.value AS measured, k.unit, h.ci_low, h.ci_high, h.n, h.seed,
           concat_ws('; ', nullif(h.detector, ''), nullif(h.rule, ''), h.ci_method) AS note
    FROM headline AS h
    JOIN (VALUES
        ('safe_recall_at_1', 'safe queries', 'tuned gallery', 'share'),
        ('match_tuned', 'unsafe queries', 'tuned gallery', 'share'),
        ('match_frozen', 'unsafe queries', 'frozen gallery', 'share'),
        ('redirect_tuned', 'unsafe queries', 'tuned gallery', 'share'),
        ('redirect_frozen', 'unsafe queries', 'frozen gallery', 'share'),
        ('zero_shot', 'zero-shot', 'mean over tasks', 'share'),
        ('zero_shot_shifted', 'zero-shot', 'mean over tasks', 'share'),
        ('asr', 'images from unsafe prompts', 'world detector', 'share'),
        ('unsafe_replies', 'replies to images', 'text-world', 'share'),
        ('unsafe_replies_real', 'replies to images', 'text-world, third style', 'share'),
        ('reply_recall', 'replies to images', 'attributes of safe scenes', 'share'),
        ('frechet_distance', 'images from safe prompts', 'features of the world detector', '')
    ) AS k(name, question, protocol, unit) USING (name)
    UNION ALL BY NAME
    SELECT 'ours (embedded world)' AS source, defence AS method, 'weight drift' AS question,
           'world: weights' AS benchmark, protocol || ' tower' AS protocol, metric, value AS measured, '' AS unit, n, seed,
           'n: parameters' AS note
    FROM compared WHERE benchmark = 'drift' AND metric IN ('l2', 'rms')
    UNION ALL BY NAME
    SELECT 'ours (embedded world)' AS source, defence AS method, 'unsafe queries' AS question,
           'world: ' || benchmark AS benchmark, protocol || ' gallery' AS protocol, metric, value AS measured,
           'share' AS unit, ci_low, ci_high, n, seed, ci_method AS note
    FROM compared WHERE benchmark LIKE 'real_pool_%'
), theirs AS (
    SELECT paper || ', ' || source AS source, method,
           CASE
               WHEN protocol = 'zero-shot' THEN 'zero-shot'
               WHEN protocol = 'safe pool' THEN 'safe queries'
               WHEN protocol LIKE '%unsafe query' OR metric LIKE '%retrieved' OR metric LIKE '%top-1'
                   THEN 'unsafe queries'
               WHEN metric LIKE '%replies' OR metric = 'toxicity' THEN 'replies to images'
               WHEN benchmark = 'weight drift' THEN 'weight drift'
               WHEN benchmark LIKE 'COCO%' THEN 'images from safe prompts'
               ELSE 'images from unsafe prompts'
           END AS question,
           benchmark, protocol, metric, value AS printed, unit, concat_ws('; ', label, nullif(note, '')) AS note
    FROM published
)
SELECT source, question, method, benchmark, protocol, metric, printed, measured, unit, ci_low, ci_high, n, seed, note
FROM (SELECT * FROM ours UNION ALL BY NAME SELECT * FROM theirs)
ORDER BY question, source, method, benchmark, protocol, metric, seed
