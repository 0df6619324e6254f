"""What several tests of small parts stand on."""


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.us = 1_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return self.us

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError
