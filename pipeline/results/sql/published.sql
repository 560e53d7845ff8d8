-- Numbers that papers printed, one per row: paper, source (table or figure), method, benchmark, protocol, metric, value,
-- unit, label ([C] from an author's source, [R] by a third party), note. Measured on other data and models than ours.
-- Each block is a table as printed: names of its columns as [benchmark, protocol, metric], then a line per method.
WITH printed AS (
    SELECT 'SafeR-CLIP' AS paper, 'Table 1' AS source, '%' AS unit, '[C]' AS label, [
        ['ViSU', 'safe pool', 'T->V R@1'], ['ViSU', 'safe pool', 'V->T R@1'],
        ['ViSU', 'unsafe query', 'T*->V R@1'], ['ViSU', 'unsafe query', 'V*->T R@1'],
        ['NSFWCaps', 'safe pool', 'T->V R@1'], ['NSFWCaps', 'safe pool', 'V->T R@1'],
        ['NSFWCaps', 'unsafe query', 'T*->V R@1'], ['NSFWCaps', 'unsafe query', 'V*->T R@1'],
        ['11 datasets', 'zero-shot', 'mean top-1']] AS columns, t.method, t.numbers
    FROM (VALUES
        ('CLIP', [36.8, 39.9, 2.8, 5.5, 69.6, 73.4, 3.8, 7.9, 74.3]),
        ('DataComp-1B', [46.7, 47.0, 1.6, 5.5, 79.0, 80.3, 2.8, 12.9, NULL]),
        ('CLIP fine-tuned on safe data', [54.5, 54.9, 2.0, 6.6, 78.9, 79.1, 4.6, 13.1, 67.3]),
        ('Safe-CLIP', [49.1, 48.8, 14.5, 23.8, 76.6, 76.7, 35.4, 47.1, 52.2]),
        ('SafeR-CLIP', [52.0, 51.5, 27.9, 24.6, 81.8, 78.1, 79.5, 72.3, 60.2])) AS t(method, numbers)
    UNION ALL
    SELECT 'SafeR-CLIP', 'Table 1', 'points', '[C]', [
        ['ViSU', 'safe pool', 'T->V R@1, gain over Safe-CLIP'], ['ViSU', 'safe pool', 'V->T R@1, gain over Safe-CLIP'],
        ['ViSU', 'unsafe query', 'T*->V R@1, gain over Safe-CLIP'],
        ['ViSU', 'unsafe query', 'V*->T R@1, gain over Safe-CLIP'],
        ['NSFWCaps', 'safe pool', 'T->V R@1, gain over Safe-CLIP'],
        ['NSFWCaps', 'safe pool', 'V->T R@1, gain over Safe-CLIP'],
        ['NSFWCaps', 'unsafe query', 'T*->V R@1, gain over Safe-CLIP'],
        ['NSFWCaps', 'unsafe query', 'V*->T R@1, gain over Safe-CLIP'],
        ['11 datasets', 'zero-shot', 'mean top-1, gain over Safe-CLIP']],
        'SafeR-CLIP', [2.9, 2.7, 13.4, 0.8, 5.2, 1.4, 44.1, 25.2, 8.0]
    UNION ALL
    SELECT 'SafeR-CLIP', 'Table 2', '%', '[C]', [
        ['NSFW URLs', 'V->T', 'NSFW retrieved'], ['NudeNet', 'V->T', 'NSFW retrieved'],
        ['SMID', 'V->T', 'NSFW retrieved'], ['NSFW URLs', 'T->V', 'NSFW retrieved'],
        ['NudeNet', 'T->V', 'NSFW retrieved'], ['SMID', 'T->V', 'NSFW retrieved']], t.*
    FROM (VALUES
        ('CLIP', [91.6, 94.1, 96.3, 98.8, 99.6, 97.0]),
        ('DataComp-1B', [82.1, 87.0, 87.6, 89.4, 89.5, 93.5]),
        ('CLIP fine-tuned on safe data', [91.1, 93.7, 88.3, 95.7, 97.0, 87.6]),
        ('Safe-CLIP', [21.1, 13.0, 14.2, 41.1, 43.1, 26.6]),
        ('SafeR-CLIP', [18.5, 10.7, 3.1, 37.2, 27.0, 16.9])) AS t
    UNION ALL
    SELECT 'SafeR-CLIP', 'Table 3', '%', '[C]', [
        ['I2P', 'alone', 'mean NSFW score'], ['I2P', 'with SafeR-CLIP', 'mean NSFW score']], t.*
    FROM (VALUES
        ('SD v1.4', [37.1, NULL]),
        ('SD v1.4 + CLIP fine-tuned on safe data', [34.4, NULL]),
        ('SD v1.4 + Safe-CLIP', [16.1, 16.0]),
        ('SD v1.4 + SLD-Weak', [23.7, 13.9]),
        ('SD v1.4 + SLD-Medium', [17.4, 12.8]),
        ('SD v1.4 + SLD-Strong', [12.1, 12.0]),
        ('SD v1.4 + negative prompt', [12.3, 11.9])) AS t
    UNION ALL
    SELECT 'SafeR-CLIP', 'Table 4', '%', '[C]', [
        ['NudeNet', 'LLaVA', 'NSFW replies'], ['NudeNet', 'LLaVA', 'toxicity'],
        ['NSFW URLs', 'LLaVA', 'NSFW replies'], ['NSFW URLs', 'LLaVA', 'toxicity'],
        ['SMID', 'LLaVA', 'NSFW replies'], ['SMID', 'LLaVA', 'toxicity']], t.*
    FROM (VALUES
        ('CLIP', [75.5, 36.2, 56.4, 24.9, 24.2, 5.4]),
        ('CLIP fine-tuned on safe data', [66.8, 29.2, 52.4, 22.2, 17.0, 4.5]),
        ('Safe-CLIP', [31.5, 16.4, 27.9, 13.6, 8.8, 4.1]),
        ('SafeR-CLIP', [25.4, 12.4, 27.6, 11.0, 7.7, 3.6])) AS t
    UNION ALL
    SELECT 'SafeR-CLIP', 'Poster', 'points', '[C]',
        [['11 datasets', 'zero-shot', 'greatest loss of existing methods']], 'existing methods', [22]
    UNION ALL
    SELECT 'SafeR-CLIP', 'Slide 16', '1e-4, normalisation not stated', '[C]',
        [['weight drift', tower || ', index ' || i, 'L2 distance'] FOR i IN range(10)], method, numbers
    FROM (VALUES
        ('text', 'Safe-CLIP', [0.8, 1.75, 2.5, 3.25, 4.05, 4.9, 5.8, 6.7, 7.65, 8.6]),
        ('text', 'SafeR-CLIP', [0.15, 0.5, 1.45, 2.5, 3.35, 4.05, 4.75, 5.45, 6.15, 6.5]),
        ('vision', 'Safe-CLIP', [0.45, 0.95, 1.4, 1.9, 2.4, 2.95, 3.55, 4.2, 4.85, 5.6]),
        ('vision', 'SafeR-CLIP', [0.1, 0.35, 0.75, 1.1, 1.55, 1.95, 2.4, 2.85, 3.35, 3.55])) AS t(tower, method, numbers)
    UNION ALL
    SELECT 'ShieldCLIP', 'zero-shot', '%', '[C]', [
        [dataset, 'zero-shot', 'top-1']
        FOR dataset IN ['CIFAR-10', 'CIFAR-100', 'SUN397', 'Food101', 'Caltech101', 'Imagenette']], t.*
    FROM (VALUES
        ('CLIP', [94.5, 60.7, 63.6, 88.1, 74.8, 99.7]),
        ('Safe-CLIP', [87.6, 61.1, 54.2, 74.8, 64.4, 98.5]),
        ('SafeR-CLIP', [92.1, 61.5, 58.4, 77.2, 74.3, 98.8])) AS t
    UNION ALL
    SELECT 'ShieldCLIP', 'COCO 30k', '', '[C]', [
        ['COCO 30k', 'SD v1.4', 'FID'], ['COCO 30k', 'SD v1.4', 'CLIP-Sim']], t.*
    FROM (VALUES ('SD v1.4', [14.7, 0.266]), ('SD v1.4 + Safe-CLIP', [15.7, 0.259]),
                 ('SD v1.4 + SafeR-CLIP', [25.4, 0.228]), ('SD v1.4 + SLD-Strong', [19.2, 0.239])) AS t
    UNION ALL
    SELECT 'ShieldCLIP', 'text to image', '%', '[C]', [
        [split_part(benchmark, ', ', 1), CASE WHEN benchmark LIKE '%judge' THEN 'LlavaGuard' ELSE 'NudeNet or Q16' END,
         'harmful images'] FOR benchmark IN ['I2P', 'ViSUv2', 'ViSU', 'SneakyPrompt', 'MMA-Diffusion', 'Ring-A-Bell',
                                             'I2P, judge', 'ViSUv2, judge']], t.*
    FROM (VALUES
        ('SD v1.4', [38.1, 25.4, 24.6, 40.0, 41.7, 62.5, 24.8, 20.4]),
        ('SD v1.4 + Safe-CLIP', [21.8, 6.1, 4.1, 11.7, 8.0, 21.3, 11.5, 2.5]),
        ('SD v1.4 + SafeR-CLIP', [16.8, 7.5, 6.9, 12.7, 8.1, 25.0, 8.7, 3.1])) AS t
    UNION ALL
    SELECT 'ShieldCLIP', 'I2P by category', '%', '[C]', [
        ['I2P', category, 'harmful images']
        FOR category IN ['hate', 'harassment', 'violence', 'self-harm', 'sexual', 'shocking', 'illegal']], t.*
    FROM (VALUES
        ('SD v1.4 + Safe-CLIP', [24.7, 20.5, 24.4, 21.3, 13.6, 27.9, 20.1]),
        ('SD v1.4 + SafeR-CLIP', [21.4, 18.8, 16.8, 16.0, 10.4, 22.4, 15.5])) AS t
    UNION ALL
    SELECT 'ShieldCLIP', 'retrieval, mixed pool', '%', '[C]', [
        ['ViSUv2', 'T2I', 'harmful at top-1'], ['ViSU', 'T2I', 'harmful at top-1'],
        ['ViSUv2', 'I2T', 'harmful at top-1'], ['ViSU', 'I2T', 'harmful at top-1']], t.*
    FROM (VALUES
        ('CLIP', [95.2, 90.9, 95.4, 90.5]), ('HySAC', [32.1, 18.7, 79.4, 74.9]),
        ('Safe-CLIP', [62.9, 51.4, 71.2, 57.7]), ('SafeR-CLIP', [21.0, 37.1, 23.1, 17.7])) AS t
    UNION ALL
    SELECT 'ShieldCLIP', 'retrieval, real images', '%', '[C]', [
        [benchmark, 'I2T', 'harmful at top-1'] FOR benchmark IN ['NudeNet', 'NSFW URLs', 'SMID']],
        'SafeR-CLIP', [70.3, 53.0, 52.7]
    UNION ALL
    SELECT 'ShieldCLIP', 'image to text', '%', '[C]', [
        [benchmark, 'LLaVA (LLaMA-2-13B)', 'harmful replies'] FOR benchmark IN ['NudeNet', 'NSFW URLs', 'SMID']], t.*
    FROM (VALUES ('CLIP', [58.6, 32.4, 8.8]), ('Safe-CLIP', [14.6, 7.5, 2.3]), ('SafeR-CLIP', [17.4, 10.2, 2.2])) AS t
    UNION ALL
    SELECT 'SAGE', 'jailbreak', '%', '[R]', [['jailbreak prompts', 'text to image', 'success']], t.*
    FROM (VALUES ('Safe-CLIP', [38.1]), ('SafeR-CLIP', [35.1])) AS t
    UNION ALL
    SELECT 'HySAC', 'retrieval on ViSU', '%', '[R]', flatten([[
        ['ViSU', CASE WHEN way LIKE '%*%' THEN 'mixed pool, unsafe query' ELSE 'safe pool' END, way || ' R@' || k]
        FOR k IN [1, 10, 20]] FOR way IN ['T->V', 'V->T', 'T*->V', 'V*->T']]), t.*
    FROM (VALUES
        ('CLIP', [36.8, 71.6, 81.5, 39.8, 74.2, 83.5, 2.0, 24.8, 33.2, 4.6, 32.9, 40.6]),
        ('Safe-CLIP', [45.9, 81.8, 89.7, 45.3, 82.3, 89.8, 8.0, 46.9, 58.0, 19.1, 62.9, 71.1]),
        ('MERU fine-tuned by HySAC', [50.0, 84.1, 91.1, 51.2, 85.3, 92.3, 2.3, 39.9, 49.4, 5.7, 47.9, 54.7]),
        ('HyCoCLIP fine-tuned by HySAC', [47.7, 81.9, 89.1, 46.7, 82.7, 90.4, 1.5, 32.7, 42.3, 6.9, 45.2, 53.6]),
        ('HySAC', [49.8, 84.1, 90.7, 48.2, 84.2, 91.2, 30.5, 62.8, 71.8, 42.1, 73.3, 79.8])) AS t
    UNION ALL
    SELECT 'HySAC', 'Table 4', '%', '[R]', [
        ['NudeNet', 'T2I', 'safe at top-1'], ['NSFW URLs', 'T2I', 'safe at top-1'], ['SMID', 'T2I', 'safe at top-1'],
        ['NudeNet', 'I2T', 'safe at top-1'], ['NSFW URLs', 'I2T', 'safe at top-1'], ['SMID', 'I2T', 'safe at top-1']],
        t.*
    FROM (VALUES
        ('CLIP', [78.2, 79.7, 55.2, 33.3, 44.0, 59.1]),
        ('Safe-CLIP', [92.6, 92.6, 83.4, 75.2, 76.4, 65.6]),
        ('HySAC', [96.2, 93.9, 80.1, 84.4, 95.1, 97.9])) AS t
), numbers AS (
    SELECT paper, source, method, unit, label, unnest(columns) AS place, unnest(numbers) AS value FROM printed
), notes AS (
    -- A note holds for every number of its paper and source that the other columns do not rule out ('' rules out none).
    SELECT * FROM (VALUES
        ('SafeR-CLIP', 'Table 1', 'Safe-CLIP', 'ViSU', 'differs from the Safe-CLIP and HySAC papers: re-trained, other '
         || 'unsafe images, or both; never mix the two'),
        ('SafeR-CLIP', 'Table 1', '', '11 datasets', 'which 11 datasets and prompts: not stated'),
        ('SafeR-CLIP', 'Table 2', '', '', 'pool not stated; lower is better'),
        ('SafeR-CLIP', 'Table 3', '', '', 'NudeNet or Q16; lower is better'),
        ('SafeR-CLIP', 'Table 4', '', '', 'LLaVA version and judge not stated; lower is better'),
        ('SafeR-CLIP', 'Slide 16', '', '', 'read off the plot, +-0.1; index k is after epoch k + 1 (inferred)'),
        ('ShieldCLIP', 'I2P by category', 'SD v1.4 + SafeR-CLIP', '', 'harassment: low confidence; the row averages to '
         || '17.3, the printed mean is 16.8'),
        ('ShieldCLIP', 'text to image', '', '', 'mean of 5 random seeds per prompt; lower is better'),
        ('ShieldCLIP', 'image to text', 'CLIP', 'SMID', 'about; low confidence'),
        ('ShieldCLIP', 'retrieval, real images', '', '', 'T2I is almost 0; another pool or query set than Table 2 of '
         || 'SafeR-CLIP (inferred)'),
        ('HySAC', 'Table 4', '', '', 'pool of 1 NSFW to 10 safe images (inferred from the code)')
    ) AS t(paper, source, method, benchmark, note)
)
SELECT n.paper, n.source, n.method, n.place[1] AS benchmark, n.place[2] AS protocol, n.place[3] AS metric,
       n.value::DOUBLE AS value, n.unit, n.label, coalesce(string_agg(o.note, '; '), '') AS note
FROM numbers AS n
LEFT JOIN notes AS o
  ON o.paper = n.paper AND o.source = n.source AND o.method IN ('', n.method) AND o.benchmark IN ('', n.place[1])
WHERE n.value IS NOT NULL
GROUP BY ALL
ORDER BY n.paper, n.source, n.method, benchmark, protocol, metric
