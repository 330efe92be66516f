"""What the arms of a comparison are called, in every result. sft_exp/jobs/arms.py says how each is made."""

MAIN, SCRATCH, RANDOM = "pretrained", "scratch", "random_frozen"
LONG = "scratch_long"  # as many more steps as the pretraining had
# of a semi-supervised task: the same start without the unlabelled images
LABELS_ONLY = "labels_only"
SINGLE = "alone_"  # of a task that learns several things at once: one of them
# what must be beaten by whoever learned something
FLOORS = (RANDOM, "raw_pixels", "raw_svm", "pca_svm")
MORE_FLOORS = ("raw_knn", "raw_spread")  # where they are asked for by name
CONTROLS = (SCRATCH, *FLOORS)
