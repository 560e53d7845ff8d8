-- Which stages take longest, and how much memory: seconds of work and peak memory (MiB, as the stage itself said) of
-- each stage over the logged runs, the slowest first. `spared`: how often it was up to date or restored instead.
SELECT stage, coalesce(arg_max(device, run_id) FILTER (WHERE state = 'ran'), '') AS device,
       arg_max(seconds, run_id) FILTER (WHERE state = 'ran') AS last_seconds,
       arg_max(peak_mb, run_id) FILTER (WHERE state = 'ran') AS last_peak_mb,
       max(peak_mb) AS most_peak_mb,
       median(seconds) FILTER (WHERE state = 'ran') AS median_seconds,
       max(seconds) FILTER (WHERE state = 'ran') AS most_seconds,
       count(*) FILTER (WHERE state = 'ran') AS ran,
       count(*) FILTER (WHERE state IN ('cached', 'up_to_date')) AS spared,
       count(*) FILTER (WHERE state = 'failed') AS failed
FROM stage_runs
GROUP BY stage
ORDER BY median_seconds DESC NULLS LAST, stage
