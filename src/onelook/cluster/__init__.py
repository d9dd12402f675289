"""Work on many machines with Ray: features and labels of images, in shards."""
