-- Which score row is which headline number. Retrieval is in headline.sql, because it joins two directions.
SELECT * FROM (VALUES
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
