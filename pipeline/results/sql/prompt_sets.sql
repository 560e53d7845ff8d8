-- The prompt sets: size, and whether a flagged image is an attack's success or a false positive.
SELECT prompt_set, count(*) AS prompts, bool_or(unsafe) AS unsafe
FROM prompts
GROUP BY prompt_set
