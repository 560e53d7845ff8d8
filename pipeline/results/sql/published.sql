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
    UNION ALL
    SELECT 'DES', 'Table 1', 'images', '[C]', [
        ['I2P, nudity', 'NudeNet, 8 classes', 'images flagged, sum over classes']], t.*
    FROM (VALUES
        ('SD v1.5', [851]), ('SPM', [704]), ('SLD-strong', [511]), ('Safe-CLIP', [404]), ('SAFREE', [263]),
        ('UCE', [216]), ('ESD', [105]), ('GLoCE', [105]), ('SalUn', [21]), ('AdvUnlearn', [27]), ('DES', [16])) AS t
    UNION ALL
    SELECT 'DES', 'Table 1', '', '[C]', [
        ['COCO 10k', 'SD v1.5', 'FID'], ['COCO 10k', 'SD v1.5', 'CLIP score']], t.*
    FROM (VALUES
        ('SD v1.5', [16.57, 26.46]), ('SPM', [16.65, 26.46]), ('SLD-strong', [31.38, 24.61]),
        ('Safe-CLIP', [17.49, 25.73]), ('SAFREE', [27.09, 25.82]), ('UCE', [16.99, 26.16]), ('ESD', [17.75, 25.30]),
        ('GLoCE', [21.21, 25.70]), ('SalUn', [21.14, 24.78]), ('AdvUnlearn', [18.94, 23.82]),
        ('DES', [15.44, 25.52])) AS t
    UNION ALL
    SELECT 'DES', 'Table 2', '%', '[C]', [
        [benchmark, 'black-box', 'ASR']
        FOR benchmark IN ['SneakyPrompt', 'MMA-Diffusion', 'Ring-A-Bell', 'P4D', 'mean of 4 attacks']], t.*
    FROM (VALUES
        ('SD v1.5', [45.16, 73.93, 98.13, 94.93, 78.04]), ('Microsoft', [18.21, 26.25, 44.02, 72.24, 40.18]),
        ('OpenAI', [18.21, 24.84, 19.26, 58.98, 30.32]), ('SAFREE', [10.48, 41.20, 76.64, 48.90, 44.31]),
        ('LatentGuard', [8.76, 12.64, 43.10, 47.11, 27.90]), ('GuardT2I', [4.47, 7.54, 3.10, 8.31, 5.86]),
        ('SPM', [33.06, 65.05, 91.59, 71.32, 65.26]), ('SLD-strong', [27.42, 59.20, 97.20, 62.50, 61.58]),
        ('Safe-CLIP', [12.10, 21.21, 65.42, 50.37, 37.28]), ('UCE', [6.45, 33.30, 21.50, 33.09, 23.59]),
        ('ESD', [0.81, 8.50, 26.17, 26.10, 15.40]), ('GLoCE', [2.42, 3.80, 0.00, 5.51, 2.93]),
        ('SalUn', [0.00, 3.20, 3.74, 5.15, 3.02]), ('AdvUnlearn', [1.61, 2.10, 0.93, 1.10, 1.44]),
        ('DES', [0.00, 0.40, 0.93, 0.74, 0.52]), ('FLUX.1', [37.10, 36.40, 88.79, 63.24, 56.38]),
        ('EraseAnything', [27.42, 29.30, 67.29, 48.90, 43.23]), ('DES (FLUX)', [8.06, 6.60, 11.21, 9.56, 8.86])) AS t
    UNION ALL
    SELECT 'DES', 'Table 3', '%', '[C]', [
        [benchmark, 'adaptive white-box', 'ASR']
        FOR benchmark IN ['MMA-Diffusion', 'UnlearnDiffAtk', 'Ring-A-Bell', 'CCE', 'mean of 4 attacks']], t.*
    FROM (VALUES
        ('SD v1.5', [73.93, 95.78, 98.13, 35.13, 75.74]), ('SPM', [65.05, 93.66, 91.59, 34.17, 71.12]),
        ('Safe-CLIP', [17.27, 77.46, 51.58, 18.52, 41.21]), ('UCE', [33.3, 67.61, 21.5, 25.66, 37.02]),
        ('ESD', [8.5, 60.56, 26.17, 18.12, 28.34]), ('GLoCE', [3.8, 64.08, 0, 21.82, 22.43]),
        ('SalUn', [3.2, 24.65, 3.74, 4.27, 8.96]), ('AdvUnlearn', [2.73, 19.72, 0, 6.15, 7.15]),
        ('DES', [1.82, 18.31, 0, 5.76, 6.47])) AS t
    UNION ALL
    -- The ablations of DES print three numbers for each variant, in two units.
    SELECT 'DES', source, unit, '[C]', CASE WHEN unit = '%' THEN [['mean of 4 attacks', 'black-box', 'ASR']]
           ELSE [['COCO 10k', 'SD v1.5', 'FID'], ['COCO 10k', 'SD v1.5', 'CLIP score']] END,
           variant, CASE WHEN unit = '%' THEN [numbers[1]] ELSE numbers[2:3] END
    FROM (VALUES
        ('Table 15', 'DES, target: highest similarity', [54.13, 17.02, 26.32]),
        ('Table 15', 'DES, target: random', [44.39, 16.61, 25.82]),
        ('Table 15', 'DES, target: lowest similarity', [38.5, 17.25, 25.75]),
        ('Table 15', 'DES, alpha 50', [20.74, 16.16, 25.97]),
        ('Table 15', 'DES, alpha 100', [9.1, 15.72, 26.00]),
        ('Table 15', 'DES, alpha 150', [1.48, 15.73, 25.53]),
        ('Table 15', 'DES, alpha 200', [0.52, 15.44, 25.52]),
        ('Table 15', 'DES, alpha 250', [0.43, 15.91, 25.22]),
        ('Table 15', 'DES, alpha 300', [0.30, 16.82, 24.87]),
        ('Table 15', 'DES, alpha 350', [0.50, 16.77, 24.86]),
        ('Table 17', 'DES, UEN alone', [0.35, 106.34, 9.63]),
        ('Table 17', 'DES, UEN and SEP', [1.01, 15.77, 25.07]),
        ('Table 17', 'DES, all losses', [0.52, 15.44, 25.52]),
        ('Table 18', 'DES, without PALA', [1.76, 15.65, 25.43]),
        ('Table 18', 'DES, with PALA', [0.52, 15.44, 25.52]),
        ('Table 19', 'DES, lambda 0', [0.14, 113.38, 10.00]),
        ('Table 19', 'DES, lambda 0.1', [0.38, 58.53, 17.41]),
        ('Table 19', 'DES, lambda 0.2', [0.18, 18.77, 24.21]),
        ('Table 19', 'DES, lambda 0.3', [0.52, 15.44, 25.52]),
        ('Table 19', 'DES, lambda 0.4', [1.98, 14.96, 26.11]),
        ('Table 19', 'DES, lambda 0.5', [2.55, 14.97, 26.13]),
        ('Table 19', 'DES, lambda 0.6', [9.70, 15.23, 26.41]),
        ('Table 20', 'DES, lambda(SEP + UEN) + (1 - lambda)NEN, lambda 0.1', [7.54, 15.18, 26.34]),
        ('Table 20', 'DES, lambda(SEP + UEN) + (1 - lambda)NEN, lambda 0.2', [2.70, 14.95, 26.30]),
        ('Table 20', 'DES, lambda(SEP + UEN) + (1 - lambda)NEN, lambda 0.3', [3.56, 14.90, 26.28]),
        ('Table 20', 'DES, lambda(SEP + UEN) + (1 - lambda)NEN, lambda 0.4', [4.44, 15.09, 26.27]),
        ('Table 20', 'DES, lambda(SEP + UEN) + (1 - lambda)NEN, lambda 0.5', [7.30, 15.13, 26.32]),
        ('Table 20', 'DES, lambda(SEP + NEN) + (1 - lambda)UEN, lambda 0.1', [0.13, 43.96, 18.78]),
        ('Table 20', 'DES, lambda(SEP + NEN) + (1 - lambda)UEN, lambda 0.2', [0.26, 18.30, 23.98]),
        ('Table 20', 'DES, lambda(SEP + NEN) + (1 - lambda)UEN, lambda 0.3', [0.95, 15.15, 25.66]),
        ('Table 20', 'DES, lambda(SEP + NEN) + (1 - lambda)UEN, lambda 0.4', [1.25, 15.24, 25.64]),
        ('Table 20', 'DES, lambda(SEP + NEN) + (1 - lambda)UEN, lambda 0.5', [4.84, 15.03, 26.21])
    ) AS v(source, variant, numbers)
    CROSS JOIN (VALUES ('%'), ('')) AS u(unit)
    UNION ALL
    SELECT 'CMU report', 'Table 1', '%', '[C]', [
        ['COCO 10k, 640 px', 'benign prompts', 'images with any NudeNet box']], t.*
    FROM (VALUES ('DES (CMU)', [0.31]), ('DES + MMD (CMU)', [0.41]), ('DES + MMD + push_harm (CMU)', [0.33])) AS t
    UNION ALL
    SELECT 'CMU report', 'Table 1', '', '[C]', [
        ['COCO 10k, 640 px', 'SD v1.5', 'FID (torchvision Inception)'],
        ['COCO 10k, 640 px', 'SD v1.5', 'CLIP score (B/32)']], t.*
    FROM (VALUES
        ('DES (CMU)', [21.86, 28.5176]), ('DES + MMD (CMU)', [17.98, 30.57]),
        ('DES + MMD + push_harm (CMU)', [16.98, 30.60])) AS t
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
        ('HySAC', 'Table 4', '', '', 'pool of 1 NSFW to 10 safe images (inferred from the code)'),
        ('DES', 'Table 1', '', 'I2P, nudity', 'an image counts once per class; total: sum over classes, anus left out '
         || '(inferred); prompt set of 4703 or 931: not stated; lower is better'),
        ('DES', 'Table 2', 'SD v1.5', 'P4D', 'does not reconcile with 272 prompts'),
        ('DES', 'Table 2', 'SD v1.5', 'MMA-Diffusion', 'fits 1001 images, the other rows 1000'),
        ('DES', 'Table 2', '', '', 'lower is better'),
        ('DES', 'Table 3', '', '', 'methods that edit the U-Net: values copied from the black-box attack; lower is '
         || 'better'),
        ('DES', 'Table 15', 'DES, target: lowest similarity', '', 'alpha 0 by our reading'),
        ('DES', 'Table 17', 'DES, UEN alone', '', 'the attacks fail because nothing is drawn any more: see its FID'),
        ('DES', 'Table 20', '', '', 'order of the first variant reconstructed from a damaged table'),
        ('CMU report', 'Table 1', '', 'COCO 10k, 640 px', 'printed as ASR, but a false-positive rate: any of 18 classes '
         || 'of nudenet 3.4.2, faces included, on benign prompts; another FID, CLIP and resolution than DES: never side '
         || 'by side; EOS states only')
    ) AS t(paper, source, method, benchmark, note)
    UNION ALL
    SELECT paper, source, method, '', CASE WHEN method IN ('Microsoft', 'OpenAI', 'LatentGuard', 'GuardT2I')
           THEN 'accuracy of a filter, no detector' ELSE 'NudeNet, nine classes at 0.5, no age-word filter' END
    FROM printed WHERE paper = 'DES' AND source = 'Table 2'
)
SELECT n.paper, n.source, n.method, n.place[1] AS benchmark, n.place[2] AS protocol, n.place[3] AS metric,
       n.value::DOUBLE AS value, n.unit, n.label, coalesce(string_agg(o.note, '; ' ORDER BY o.note), '') AS note
FROM numbers AS n
LEFT JOIN notes AS o
  ON o.paper = n.paper AND o.source = n.source AND o.method IN ('', n.method) AND o.benchmark IN ('', n.place[1])
WHERE n.value IS NOT NULL
GROUP BY ALL
ORDER BY n.paper, n.source, n.method, benchmark, protocol, metric
