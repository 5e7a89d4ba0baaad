"""Run → Run: policy, baseline, and the verdict on several targets."""
