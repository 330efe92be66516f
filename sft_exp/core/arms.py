"""The names of a comparison's arms in every result; sft_exp/jobs/arms.py defines the arms."""

MAIN, SCRATCH, RANDOM = "pretrained", "scratch", "random_frozen"
LONG = "scratch_long"  # from scratch, with the steps of the pretraining added
# control of a semi-supervised task: the same start, without unlabelled images
LABELS_ONLY = "labels_only"
SINGLE = "alone_"  # prefix of the controls of a multi-task run: one task alone
# baselines that a useful pretraining must beat
FLOORS = (RANDOM, "raw_pixels", "raw_svm", "pca_svm")
MORE_FLOORS = ("raw_knn", "raw_spread")  # run only if the user names them
PIXELS = frozenset({"raw_pixels", "raw_svm", "pca_svm", *MORE_FLOORS})  # those without a network
CONTROLS = (SCRATCH, *FLOORS)
