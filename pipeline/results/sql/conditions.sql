-- What the images or replies of a set were asked for and how, per defence and training seed: a fingerprint of the
-- prompts (of a white-box attack, those that it started from; of replies, the images), and the settings.
WITH searched AS (
    SELECT defence, seed, attack AS prompt_set, fingerprint(prompt_id) AS items FROM attacks GROUP BY ALL
), drawn AS (
    SELECT defence, seed, prompt_set, fingerprint(prompt_id) AS items,
           string_agg(DISTINCT concat(sampler, ', ', steps, ' steps, guidance ', round(guidance, 4), ', ',
                                      height, ' x ', width), '; ') AS settings
    FROM generations GROUP BY ALL
)
SELECT 'generation' AS kind, defence, seed, prompt_set, coalesce(s.items, d.items) AS items, d.settings
FROM drawn AS d
LEFT JOIN searched AS s USING (defence, seed, prompt_set)
UNION ALL
SELECT 'reply', defence, seed, image_set, fingerprint(image_id),
       string_agg(DISTINCT concat('"', query, '", temperature ', round(temperature, 4), ', ', max_new_tokens,
                                  ' tokens'), '; ')
FROM replies GROUP BY defence, seed, image_set
