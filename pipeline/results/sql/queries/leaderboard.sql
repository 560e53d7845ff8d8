-- One row per defence and seed: every headline number, with its 95 % interval and n.
SELECT *
FROM (SELECT defence, seed, name, value, ci_low, ci_high, n FROM headline)
PIVOT (
    first(value) AS value, first(ci_low) AS ci_low, first(ci_high) AS ci_high, first(n) AS n
    FOR name IN ('zero_shot', 'zero_shot_shifted', 'safe_recall_at_1', 'redirect_tuned', 'match_tuned',
                 'redirect_frozen', 'match_frozen', 'asr', 'false_positive_rate', 'subject_kept_unsafe',
                 'place_kept_unsafe', 'subject_kept_safe', 'place_kept_safe', 'clip_score', 'frechet_distance',
                 'unsafe_replies', 'unsafe_replies_real', 'unsafe_replies_safe', 'reply_recall',
                 'drift_text', 'drift_vision')
    GROUP BY defence, seed
)
ORDER BY defence, seed
