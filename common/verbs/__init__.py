"""What run_parity.py does beside running: each verb is a module with main(argv) -> exit code."""
