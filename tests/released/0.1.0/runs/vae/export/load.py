import torch

import sft_exp

model = sft_exp.load_model(".")
classes = model.spec.classes


def predict(images):
    return model.predict(torch.from_numpy(images)).numpy()
