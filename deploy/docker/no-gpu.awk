# A lock without what only a GPU needs: NVIDIA's libraries, and Triton, which compiles for them.
/^[A-Za-z0-9]/ { keep = !/^(nvidia-|cuda-|triton==)/ }
keep
