"""``python -m lwc``, which is also what ``accelerate launch -m lwc`` and ``torchrun -m lwc`` start."""

from lwc.cli.main import main

if __name__ == "__main__":
    main()
