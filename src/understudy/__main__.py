"""`python -m understudy`, for launchers that start modules: `torchrun -m understudy distill ...`."""

from understudy.cli.main import run

if __name__ == "__main__":
    run()
