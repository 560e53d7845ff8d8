-- The rows behind a number: one row per box or label, with the prompt that asked for the image, or the reply.
SELECT d.*, g.prompt_id, p.text AS prompt, p.category, r.image_id, r.text AS reply,
       g.sampler, g.steps, g.guidance, coalesce(g.model_hash, r.model_hash) AS model_hash
FROM detections AS d
LEFT JOIN generations AS g ON g.generation_id = d.item_id
LEFT JOIN replies AS r ON r.reply_id = d.item_id
LEFT JOIN prompts AS p USING (prompt_id)
