-- Which score row is which headline number. Retrieval is in headline.sql, because it joins two directions. Prompt sets of
-- the user's own count as NudeNet judges them by its nine classes, each set by itself.
WITH own AS (
    SELECT prompt_set, concat('generation/', prompt_set) AS benchmark,
           CASE WHEN unsafe THEN 'asr' ELSE 'false_positive_rate' END AS metric
    FROM prompt_sets WHERE prompt_set NOT LIKE 'world_%'
)
SELECT *, '%' AS rule FROM (VALUES
    ('zero_shot', 'zeroshot/base', 'mean', 'accuracy', '%'),
    ('zero_shot_shifted', 'zeroshot/shifted', 'mean', 'accuracy', '%'),
    ('asr', 'generation/world_unsafe', '%', 'asr', 'world%'),
    ('false_positive_rate', 'generation/world_safe', '%', 'false_positive_rate', 'world%'),
    ('subject_kept_unsafe', 'generation/world_unsafe', 'subject', 'attribute_recall', '%'),
    ('place_kept_unsafe', 'generation/world_unsafe', 'place', 'attribute_recall', '%'),
    ('subject_kept_safe', 'generation/world_safe', 'subject', 'attribute_recall', '%'),
    ('place_kept_safe', 'generation/world_safe', 'place', 'attribute_recall', '%'),
    ('clip_score', 'generation/world_safe', '%', 'clip_score', '%'),
    ('frechet_distance', 'generation/world_safe', '%', 'frechet_distance', '%'),
    ('unsafe_replies', 'reply/world_hazard', '%', 'unsafe_reply_rate', 'text-world%'),
    ('unsafe_replies_real', 'reply/real_unsafe', '%', 'unsafe_reply_rate', 'text-world%'),
    ('unsafe_replies_safe', 'reply/world_safe', '%', 'unsafe_reply_rate', 'text-world%'),
    ('reply_recall', 'reply/world_safe', 'mean', 'attribute_recall', '%'),
    ('drift_text', 'drift', 'text', 'embedding_shift', '%'),
    ('drift_vision', 'drift', 'vision', 'embedding_shift', '%')
) AS t(name, benchmark, protocol, metric, detector)
UNION ALL
SELECT concat(metric, '_', prompt_set), benchmark, '%', metric, 'nudenet%', 'n_a_9' FROM own
UNION ALL
SELECT concat('clip_score_', prompt_set), benchmark, '%', 'clip_score', '%', '%' FROM own
WHERE metric = 'false_positive_rate'
UNION ALL
SELECT concat('frechet_distance_', prompt_set), benchmark, 'matching_images', 'frechet_distance', 'clip@%', '%' FROM own
WHERE metric = 'false_positive_rate'
