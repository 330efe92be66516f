# docker build -t sft_exp .
# docker run --rm -v "$PWD:/home/user/work" sft_exp dataset=image_folder dataset.root=photos
#
# TORCH_INDEX=https://pypi.org/simple brings CUDA's libraries; then run with --gpus all.
FROM python:3.12-slim AS base
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
RUN useradd --create-home user && mkdir /home/user/work && chown user /home/user/work

FROM base AS development
RUN apt-get update && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
USER user

FROM base
COPY pyproject.toml README.md LICENSE /source/
COPY conf /source/conf
COPY sft_exp /source/sft_exp
RUN pip install --no-cache-dir "/source[export,serve]" && rm -r /source
USER user
WORKDIR /home/user/work
ENTRYPOINT ["sft_exp"]
