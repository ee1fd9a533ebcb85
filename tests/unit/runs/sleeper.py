"""A process that never says a word."""

import time

if __name__ == "__main__":
    time.sleep(60)
