-- The embedded world's detector finds any hazard at 0.5 or more: P(hazard), summed over the hazards' labels.
SELECT item_id, defence, seed, prompt_set, detector,
       coalesce(sum(score) FILTER (WHERE label <> 'none'), 0) >= 0.5 AS flagged
FROM comparable_detections
WHERE status = 'ok' AND detector LIKE 'world%'
GROUP BY ALL
