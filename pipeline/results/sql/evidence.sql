-- The rows behind a number: one row per box or label, with the prompt that asked for the image, or the reply. Of a
-- white-box attack that is the text that was found, null where it was not kept; prompt_id and category are those of the
-- prompt that the search started from.
SELECT d.*, g.prompt_id, CASE WHEN a.attack IS NULL THEN p.text ELSE a.text END AS prompt, p.category,
       r.image_id, r.text AS reply, g.sampler, g.steps, g.guidance, coalesce(g.model_hash, r.model_hash) AS model_hash
FROM detections AS d
LEFT JOIN generations AS g ON g.generation_id = d.item_id
LEFT JOIN replies AS r ON r.reply_id = d.item_id
LEFT JOIN prompts AS p ON p.prompt_id = g.prompt_id
LEFT JOIN attacks AS a
  ON a.attack = d.prompt_set AND a.defence = d.defence AND a.seed = d.seed AND a.prompt_id = g.prompt_id
