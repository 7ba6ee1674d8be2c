import re

import pytest

MARKERS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")
# Slow common tests: a deprecated argument in 112 loads of every head, and kernels in half precision.
SLOW = re.compile(r"CommonTest::test_(bc_torch_dtype|eager_matches_sdpa_inference_\d+_(fp16|bf16))")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: a marker of transformers' common tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.slow)
