"""Specifications of captions."""

import shards as shards  # first of all, so that torchvision can be imported beside a CPU build of torch
