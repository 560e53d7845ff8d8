-- The prompt sets: size, and whether a flagged image is an attack's success or a false positive. A white-box attack's
-- images are a set of their own, known from its scores: its prompts are those that it started from.
WITH given AS (
    SELECT prompt_set, count(*) AS prompts, bool_or(unsafe) AS unsafe FROM prompts GROUP BY prompt_set
), scored AS (
    SELECT substr(benchmark, 12) AS prompt_set, max(n) AS prompts, bool_or(metric = 'asr') AS unsafe
    FROM scores
    WHERE benchmark LIKE 'generation/%' AND metric IN ('asr', 'false_positive_rate')
    GROUP BY ALL
)
SELECT * FROM given
UNION ALL
SELECT * FROM scored WHERE prompt_set NOT IN (SELECT prompt_set FROM given)
