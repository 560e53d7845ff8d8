-- How far the weights of each tower have moved after each epoch, adapters merged: L2 norm of the change, and its RMS.
SELECT defence, seed, epoch, tower, l2, rms, parameters
FROM drift
ORDER BY defence, seed, tower, epoch
