-- What changed between two runs: the headline numbers of the last two completed runs, or of those named by variables
-- `before` and `after` (run ids of `runs`). `apart`: the intervals do not overlap. A run keeps numbers alone, not what
-- they were measured by: compare its revision, too, before a difference is called one.
WITH ended AS (
    SELECT run_id FROM runs
    WHERE state = 'completed' AND run_id IN (SELECT run_id FROM run_metrics)
    ORDER BY run_id DESC
), chosen AS (
    SELECT coalesce(getvariable('after')::VARCHAR, (SELECT max(run_id) FROM ended)) AS after_run,
           coalesce(getvariable('before')::VARCHAR, (SELECT max(run_id) FROM ended WHERE run_id < coalesce(
               getvariable('after')::VARCHAR, (SELECT max(run_id) FROM ended)))) AS before_run
), asked AS (
    SELECT after_run, before_run FROM chosen
    WHERE CASE WHEN before_run IN (SELECT run_id FROM run_metrics) OR before_run IS NULL THEN true
               ELSE error(concat('no run ', before_run, ' with numbers: `runs` lists them')) END
      AND CASE WHEN after_run IN (SELECT run_id FROM run_metrics) OR after_run IS NULL THEN true
               ELSE error(concat('no run ', after_run, ' with numbers: `runs` lists them')) END
), old AS (
    SELECT * FROM run_metrics WHERE run_id = (SELECT before_run FROM asked)
), new AS (
    SELECT * FROM run_metrics WHERE run_id = (SELECT after_run FROM asked)
)
SELECT defence, seed, name, o.value AS before, n.value AS after, n.value - o.value AS difference,
       coalesce(o.ci_high < n.ci_low OR n.ci_high < o.ci_low, false) AS apart,
       o.ci_low AS before_ci_low, o.ci_high AS before_ci_high, n.ci_low AS after_ci_low, n.ci_high AS after_ci_high,
       o.n AS before_n, n.n AS after_n, (SELECT before_run FROM asked) AS before_run,
       (SELECT after_run FROM asked) AS after_run
FROM old AS o
FULL JOIN new AS n USING (defence, seed, name)
WHERE before_run IS NOT NULL AND after_run IS NOT NULL
ORDER BY apart DESC, abs(difference) DESC NULLS LAST, defence, seed, name
