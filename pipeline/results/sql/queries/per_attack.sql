-- Defence against attack: ASR under each prompt set and white-box attack, and how far that lies from the undefended
-- model's. Safe prompt sets are rows too, as false positives. Means over training seeds; `attack_success` says how.
WITH measured AS MATERIALIZED (SELECT * FROM attack_success)
SELECT a.attack, a.knowledge, a.defence, a.protocol, a.metric, a.detector, a.rule, a.value, a.ci_low, a.ci_high, a.n, a.seeds,
       o.value AS undefended, a.value - o.value AS difference, a.refused, a.errors
FROM measured AS a
LEFT JOIN measured AS o
  ON o.defence = 'original' AND o.attack = a.attack AND o.metric = a.metric AND o.detector = a.detector
 AND o.rule = a.rule AND o.protocol = a.protocol
ORDER BY a.metric, a.detector, a.rule, a.protocol, a.knowledge, a.attack, a.defence
