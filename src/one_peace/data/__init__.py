"""Where examples come from: the sample library, pairs for pretraining, augmentation."""
