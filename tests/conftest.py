"""Settings for every test. `HYPOTHESIS_PROFILE` picks how hard properties are tried.

dev      50 examples (the default)
ci       300, the same ones each time, printing how to repeat a failure (the default where CI is set)
deep     20,000, for a night
replay   only examples written down or found before
"""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci", max_examples=300, deadline=None, derandomize=True, print_blob=True, database=None
)
settings.register_profile(
    "deep",
    max_examples=20_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("replay", deadline=None, phases=[Phase.explicit, Phase.reuse])
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if "CI" in os.environ else "dev")
)
