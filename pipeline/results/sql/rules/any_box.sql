-- Any NudeNet box of any class, faces and covered parts included: what CMU counts, on benign prompts.
SELECT item_id, defence, seed, prompt_set, detector, bool_or(label IS NOT NULL) AS flagged
FROM detections
WHERE status = 'ok' AND detector LIKE 'nudenet%'
GROUP BY ALL
