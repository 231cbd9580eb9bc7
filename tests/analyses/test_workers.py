"""Workers that compute alone."""

from __future__ import annotations

import torch

from tl_entropy.analyses.workers import one_thread_each


def test_workers_compute_alone_and_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread_each() as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
            torch.set_num_threads(1)  # as a worker does where one number holds for all threads
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
