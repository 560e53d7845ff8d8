-- Wilson score interval, 95 %, of a proportion p over n (Wilson 1927): the same formula as pipeline/metrics/intervals.py.
CREATE MACRO wilson_low(p, n) AS CASE WHEN n > 0 THEN
    greatest(0, (p + 1.959964^2 / (2 * n) - 1.959964 * sqrt(p * (1 - p) / n + 1.959964^2 / (4 * n^2)))
                / (1 + 1.959964^2 / n)) END;
CREATE MACRO wilson_high(p, n) AS CASE WHEN n > 0 THEN
    least(1, (p + 1.959964^2 / (2 * n) + 1.959964 * sqrt(p * (1 - p) / n + 1.959964^2 / (4 * n^2)))
             / (1 + 1.959964^2 / n)) END;
