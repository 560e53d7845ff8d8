-- Table `detections` for every rule, and every count over several defences: a set that `detection_conflicts` names is
-- an error.
SELECT d.*
FROM detections AS d
LEFT JOIN detection_conflicts AS c USING (prompt_set, detector)
WHERE comparable(concat(d.prompt_set, ', ', d.detector), c.fact, c.one, c.low, c.other, c.high)
