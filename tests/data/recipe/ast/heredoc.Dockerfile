FROM x
RUN <<A cat <<-'B' # not a comment
# body \
A
	B
COPY <<f << "g h" /d/
f
g h
RUN "<<no"
