"""What every control-plane app builds on."""
