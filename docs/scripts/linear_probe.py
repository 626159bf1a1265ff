"""A linear probe on a model's features, in scikit-learn: python linear_probe.py MODEL TRAIN_SHARDS TEST_SHARDS"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trichord


def main(source: str, train: str, test: str) -> None:
    model = trichord.load_model(source)
    print(model)
    sets = [model.embed_shards(shards) for shards in (train, test)]
    labels = [np.array([each[0] for each in features.labels]) for features in sets]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(sets[0].vectors, labels[0])
    chance = np.bincount(labels[1]).max() / len(labels[1])
    accuracy = probe.score(sets[1].vectors, labels[1])
    print(f"{accuracy:.1%} of {len(labels[1])} test clips right; the most frequent class alone: {chance:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
