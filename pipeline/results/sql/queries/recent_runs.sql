-- The logged runs, the newest first: what was asked, how it ended, how long it took, and how many stages ran, were
-- restored, were up to date, failed or were not reached. A run that was killed stays `running`.
WITH stages AS (
    SELECT run_id, count(*) FILTER (state = 'ran') AS ran, count(*) FILTER (state = 'cached') AS cached,
           count(*) FILTER (state = 'up_to_date') AS up_to_date, count(*) FILTER (state = 'failed') AS failed,
           count(*) FILTER (state = 'not_run') AS not_run
    FROM stage_runs GROUP BY run_id
)
SELECT run_id, kind, state, started,
       round(date_diff('second', started::TIMESTAMP, ended::TIMESTAMP) / 60, 1) AS minutes,
       coalesce(ran, 0) AS ran, coalesce(cached, 0) AS cached, coalesce(up_to_date, 0) AS up_to_date,
       coalesce(failed, 0) AS failed, coalesce(not_run, 0) AS not_run, left(revision, 10) AS revision, experiment,
       targets, overrides
FROM runs
LEFT JOIN stages USING (run_id)
ORDER BY run_id DESC
