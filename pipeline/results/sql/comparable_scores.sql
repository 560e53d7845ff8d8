-- Table `scores` for every view that sets numbers beside each other: a number that `score_conflicts` names is an error.
SELECT s.*
FROM scores AS s
LEFT JOIN score_conflicts AS c USING (benchmark, protocol, metric, detector, rule)
WHERE comparable(concat_ws(', ', s.benchmark, nullif(s.protocol, ''), s.metric, nullif(s.detector, ''),
                           nullif(s.rule, '')), c.fact, c.one, c.low, c.other, c.high)
